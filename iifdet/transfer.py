"""Starting from a trained model of another class list: layers by name and shape, class rows by class name."""

from __future__ import annotations

import torch
from torchvision.ops import FrozenBatchNorm2d

from iifdet.errors import InputError, counted, some
from iifdet.longtail import AdjustedModel, ClassifierRows, spell_choice


@torch.no_grad()
def transfer_weights(model: AdjustedModel, source: AdjustedModel, whole: bool = False) -> list[str]:
    """Copy what fits from ``source`` into ``model``, in place.

    Args:
        whole: all but class layers must fit, since it will not be trained.

    Returns:
        One line for each thing that did not match, and one that sums up.

    Raises:
        InputError: nothing fits, or not all where all must; or the source was folded.
    """
    if source.adjust.folded:
        raise InputError("weights: expected an unfolded checkpoint, got one whose class rows carry an adjustment")
    learned = _learned(model)
    theirs = source.state_dict()
    ours = {k: v for k, v in model.state_dict().items() if k in learned}
    class_keys = _class_keys(model) | set(model.class_tensors())
    copied, matrices, missed = 0, 0, []
    for name, value in ours.items():
        if name in class_keys:
            continue
        if name in theirs and theirs[name].shape == value.shape:
            value.copy_(theirs[name])
            copied += 1
            matrices += value.ndim > 1
        elif not name.endswith(".num_batches_tracked"):  # frozen batch norm counts none
            missed.append(name)
    if not matrices:  # counters and short vectors fit anything
        raise InputError(
            f"weights: expected layers of {_called(model, source)}, got a checkpoint of {_called(source, model)} "
            "and nothing in it fits; choose the same model and model_args"
        )
    classes = tuple(f"{place}." for place in _places(model))
    if whole and (left := [name for name in missed if not name.startswith(classes)]):
        raise InputError(
            f"weights: expected all layers below the class rows, which stay as they are, of {_called(model, source)}, "
            f"got none for {some(left, 3)} in a checkpoint of {_called(source, model)}; give the model_args that it "
            "was trained with"
        )
    alike = _alike(model, source)
    if list(model.names) == list(source.names):  # background's places too, so that nothing but class rows can differ
        for name in alike:
            if name in theirs and theirs[name].shape == ours[name].shape:
                ours[name].copy_(theirs[name])
    notes = [*_other_circumstances(model, source), *_copy_class_rows(model, source, alike)]
    if missed:
        notes.append(f"{len(missed)} layers keep random weights: {', '.join(missed)}")
    return [f"{copied} of {len(ours) - len(class_keys)} tensors loaded beside the class rows", *notes]


def _other_circumstances(model: AdjustedModel, source: AdjustedModel) -> list[str]:
    """What was otherwise when the class rows of ``source`` were trained."""
    notes = []
    if model.class_loss_choice != source.class_loss_choice:
        before, now = spell_choice(source.class_loss_choice), spell_choice(model.class_loss_choice)
        notes.append(f"class rows were trained with {before}, this run trains with {now}")
    if not source.adjust.is_identity and source.adjust.acts_in("train"):
        notes.append(f"the adjustment that its class rows were trained under is not taken: {source.adjust}")
    if source.align is not None:
        notes.append("the alignment that a second stage has learned is not taken")
    if None not in (model.cosine_scale, source.cosine_scale) and model.cosine_scale != source.cosine_scale:
        notes.append(
            f"all logits change: a cosine of 1 comes to {model.cosine_scale}, and came to {source.cosine_scale} in the "
            "checkpoint"
        )
    return notes


def _called(model: AdjustedModel, other: AdjustedModel) -> str:
    """A model's name, and those of its options that another one has otherwise."""
    mine, theirs = ({k: v for k, v in m.spec.get("args", {}).items() if k != "num_classes"} for m in (model, other))
    apart = [f"{key}={value}" for key, value in mine.items() if theirs.get(key) != value]
    return " with ".join([str(model.spec.get("name")), *([", ".join(apart)] if apart else [])])


def _learned(model: AdjustedModel) -> set[str]:
    """Tensors that training makes: parameters and the statistics beside them, but neither anchors nor adjustment.

    Frozen batch norm has no parameters, and what it holds was learned all the same.
    """
    names = set()
    for prefix, module in model.named_modules():
        own = isinstance(module, FrozenBatchNorm2d) or any(True for _ in module.parameters(recurse=False))
        if own and not prefix.startswith("adjust"):
            names |= {f"{prefix}.{name}".removeprefix(".") for name in (*module._parameters, *module._buffers)}
    return names


def _class_keys(model: AdjustedModel) -> set[str]:
    """Parameters with a row for each class; a learned scale of all logits is none and is copied like any other."""
    layers = {id(p) for layer in model.classifier_layers() for p in layer.parameters() if p.ndim}
    return {name for name, p in model.named_parameters() if id(p) in layers}


def _alike(model: AdjustedModel, source: AdjustedModel) -> set[str]:
    """Class tensors whose modules are of the same kind in both: what they hold means the same then."""
    mine, theirs = ({name: type(module) for name, module in m.named_modules()} for m in (model, source))
    places = {name: name.rpartition(".")[0] for name in model.class_tensors()}
    return {name for name, place in places.items() if mine[place] is theirs.get(place)}


def _places(model: AdjustedModel) -> list[str]:
    """Names of the classifier layers."""
    names = {id(module): name for name, module in model.named_modules()}
    return [names[id(layer)] for layer in model.classifier_layers()]


def _foreign_layers(model: AdjustedModel, source: AdjustedModel) -> str | None:
    """What class layers are, where those of one are no kind of the other's: their rows mean something else then."""
    theirs = dict(zip(_places(source), source.classifier_layers(), strict=True))
    for place, mine in zip(_places(model), model.classifier_layers(), strict=True):
        other = theirs.get(place, mine)
        if not (isinstance(mine, type(other)) or isinstance(other, type(mine))):
            return f"{type(mine).__name__} here, {type(other).__name__} in the checkpoint"
    return None


def _copy_class_rows(model: AdjustedModel, source: AdjustedModel, alike: set[str]) -> list[str]:
    """Class rows by name, and what else has a part for each class, where it is ``alike`` in both."""
    place = {name: row for row, name in enumerate(source.names)}
    ours = [row for row, name in enumerate(model.names) if name in place]
    theirs = [place[model.names[row]] for row in ours]
    other_tensors, notes = source.class_tensors(), []
    for name, value in model.class_tensors().items():
        if name in alike and name in other_tensors and other_tensors[name].shape[1:] == value.shape[1:]:
            value[ours] = other_tensors[name][theirs]
    layers = tuple(f"{layer}." for layer in _places(model))
    strange = {name.rpartition(".")[0] for name in model.class_tensors().keys() - alike if not name.startswith(layers)}
    if strange:
        notes.append(f"random, since the checkpoint has other ones or none: {', '.join(sorted(strange))}")
    if kinds := _foreign_layers(model, source):
        how = "set model_args.head as the checkpoint has it to take them"
        return [*notes, f"class rows keep random weights: {kinds}; {how}"]
    kept = _copy_rows(model, source, ours, theirs)
    if kept:
        which = f" of {', '.join(kept)}" if len(kept) < len(model.classifier_layers()) else ""
        notes.append(f"class rows{which} keep random weights: the checkpoint has others there, or none")
    absent = [name for name in model.names if name not in place]
    if absent:
        notes.append(f"{counted(len(absent), 'class starts', 'classes start')} from random rows: {', '.join(absent)}")
    return notes


def _copy_rows(model: AdjustedModel, source: AdjustedModel, ours: list[int], theirs: list[int]) -> list[str]:
    """Copy rows between layers of one name; those that keep random ones."""
    known, kept = dict(zip(_places(source), _rows_by_layer(source), strict=True)), []
    for place, rows in zip(_places(model), _rows_by_layer(model), strict=True):
        others = known.get(place, [])
        if [r.weight.shape[1:] for r in rows] != [r.weight.shape[1:] for r in others]:
            kept.append(place)
            continue
        for mine, other in zip(rows, others, strict=True):
            mine.weight[ours] = other.weight[theirs]
            mine.bias[ours] = other.bias[theirs]
            if mine.background is not None and other.background is not None:
                for to, value in zip(mine.background, other.background, strict=True):
                    to.copy_(value)
    return kept


def _rows_by_layer(model: AdjustedModel) -> list[list[ClassifierRows]]:
    layers: list[list[ClassifierRows]] = [[] for _ in model.classifier_layers()]
    for rows in model.classifier_rows():
        layers[rows.layer].append(rows)
    return layers
