"""A sparse bilinear model of points and labels (ZestXML): features, training, search, scores."""

from dexml.text.bilinear.features import BilinearFeatures, Parents
from dexml.text.bilinear.model import BilinearModel, BilinearSettings, fit_bilinear

__all__ = ["BilinearFeatures", "BilinearModel", "BilinearSettings", "Parents", "fit_bilinear"]
