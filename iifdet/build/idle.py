"""Keys that nothing reads are refused: they would do nothing."""

from __future__ import annotations

from iifdet.config import TrainConfig
from iifdet.errors import InputError

#: A key that chooses -> the keys beside it, and its values that read them.
READ_BY: dict[str, dict[str, tuple[str, ...]]] = {
    "distill": {
        "teacher": ("cbd", "dive"),
        "distill_share": ("cbd", "dive"),
        "distill_scale": ("cbd",),
        "distill_temperature": ("dive",),
        "distill_power": ("dive",),
    },
    "synthesis": {"synthesis_neighbors": ("tailcalib",), "synthesis_spread": ("tailcalib",)},
}


def refuse_idle_keys(config: TrainConfig) -> None:
    """Refuse keys that the chosen way does not read.

    Raises:
        InputError: one has another value than its default.
    """
    for chooser, keys in READ_BY.items():
        chosen = getattr(config, chooser)
        for key, values in keys.items():
            if chosen not in values and getattr(config, key) != TrainConfig.model_fields[key].default:
                belongs = " or ".join(values)
                raise InputError(f"{key}: belongs to {chooser}={belongs}, got {chooser}={chosen}; drop it")
