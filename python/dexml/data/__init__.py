"""Data sets in the LF layout: label matrices, bags of words, texts, filter pairs and splits.

Matrices are ``scipy.sparse.csr_array`` of points x labels, with float32 values and int32 label
ids that are sorted in each row. Formats: ``docs/formats.md``. Needs only numpy and scipy.
"""

from dexml.data.features import FeatureSet, load_features, save_features
from dexml.data.folders import folder_from_dataset, folder_from_table
from dexml.data.layout import (
    Dataset,
    Part,
    check_same_features,
    load_dataset,
    load_label_parents,
    load_label_texts,
    load_part,
    save_dataset,
)
from dexml.data.matrices import (
    Repairs,
    load_bow,
    load_labels,
    load_pairs,
    load_scores,
    repair_bow,
    repair_labels,
    save_bow,
    save_labels,
    save_pairs,
    save_scores,
)
from dexml.data.parts import (
    Csr,
    CsrParts,
    check_ids,
    csr_of_ids,
    csr_parts,
    expect_csr,
    hits_of,
    id_array,
    label_matrix,
    label_parts,
    pair_parts,
    truth_parts,
)
from dexml.data.rows import (
    Features,
    check_feature_texts,
    feature_texts,
    is_bag,
    load_rows,
    require_texts,
)
from dexml.data.tables import Columns, from_table, is_table
from dexml.data.texts import (
    lines,
    load_texts,
    packing,
    part_numbers,
    save_texts,
    unit_interval,
    validation_mask,
)
from dexml.data.unseen import HeldOut, hold_out_labels
from dexml.given import text_list

__all__ = [
    "Columns",
    "Csr",
    "CsrParts",
    "Dataset",
    "FeatureSet",
    "Features",
    "HeldOut",
    "Part",
    "Repairs",
    "check_feature_texts",
    "check_ids",
    "check_same_features",
    "csr_of_ids",
    "csr_parts",
    "expect_csr",
    "feature_texts",
    "folder_from_dataset",
    "folder_from_table",
    "from_table",
    "hits_of",
    "hold_out_labels",
    "id_array",
    "is_bag",
    "is_table",
    "label_matrix",
    "label_parts",
    "lines",
    "load_bow",
    "load_dataset",
    "load_features",
    "load_label_parents",
    "load_label_texts",
    "load_labels",
    "load_pairs",
    "load_part",
    "load_rows",
    "load_scores",
    "load_texts",
    "packing",
    "pair_parts",
    "part_numbers",
    "repair_bow",
    "repair_labels",
    "require_texts",
    "save_bow",
    "save_dataset",
    "save_features",
    "save_labels",
    "save_pairs",
    "save_scores",
    "save_texts",
    "text_list",
    "truth_parts",
    "unit_interval",
    "validation_mask",
]
