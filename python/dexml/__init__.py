"""Dual encoders for extreme multi-label classification (XMC).

The rooms: :mod:`dexml.data` (files), :mod:`dexml.metrics` (scores), :mod:`dexml.sampling`
(label pools), :mod:`dexml.losses` and :mod:`dexml.encoder` (torch), :mod:`dexml.train`,
:mod:`dexml.index`, :mod:`dexml.predict` (commands), :mod:`dexml.demo` (a worked example).
"""
