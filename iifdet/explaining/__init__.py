"""What a model looks at: class activation maps and heat maps. pytorch-grad-cam is loaded with the first of them."""

from iifdet.explaining.attribution import METHODS, SCALARS, LayerMap, attribute, class_activation_map, principal_map
from iifdet.explaining.choosing import Choice, Chosen, choose
from iifdet.explaining.class_sheet import draw_class_sheet
from iifdet.explaining.classes import CLASS_SCALARS, ClassExplanation, explain_class
from iifdet.explaining.curves import Curves, deletion_and_insertion
from iifdet.explaining.explanation import Explanation, explain, normalised
from iifdet.explaining.geometry import View
from iifdet.explaining.heat import ClassHeat, class_heat, confidence_heat
from iifdet.explaining.job import CamColumn, CamJob, CamResult, CamSheet
from iifdet.explaining.layers import find_layers, look
from iifdet.explaining.sheet import draw_sheet

__all__ = [
    "CLASS_SCALARS",
    "METHODS",
    "SCALARS",
    "CamColumn",
    "CamJob",
    "CamResult",
    "CamSheet",
    "Choice",
    "Chosen",
    "ClassExplanation",
    "ClassHeat",
    "Curves",
    "Explanation",
    "LayerMap",
    "View",
    "attribute",
    "choose",
    "class_activation_map",
    "class_heat",
    "confidence_heat",
    "deletion_and_insertion",
    "draw_class_sheet",
    "draw_sheet",
    "explain",
    "explain_class",
    "find_layers",
    "look",
    "normalised",
    "principal_map",
]
