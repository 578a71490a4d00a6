"""A tower's layers, counted from its input: what layer-wise rates and freezing go by."""

from __future__ import annotations

from typing import Any

from torch import nn

from skumatch.errors import ParameterError
from skumatch.model.torchvision_ops import open_clip

group_parameters = (
    open_clip.timm_model.timm.models.group_parameters
)  # timm as open_clip has it: not without torchvision_ops
TRUNK = "trunk."  # how the names of timm's models begin in open_clip's towers
# in the form of timm's group_matcher; what no pattern names is the top
OWN_VIT = {
    "stem": r"^conv1|class_embedding|positional_embedding|ln_pre",
    "blocks": r"^transformer\.resblocks\.(\d+)",
}


def layers(tower: nn.Module) -> dict[str, int]:
    """Each parameter's layer: 0 is the stem, then one a block, then the top (a final norm or projection, where it isn't the last block's).

    timm's towers say it themselves; open_clip's own ones don't, and timm would put all of their parameters in one layer.
    Raises ParameterError for a tower that doesn't tell layers apart.
    """
    trunk: Any = getattr(tower, "trunk", None)
    if trunk is None:
        found = dict(group_parameters(tower, OWN_VIT, reverse=True))
    else:
        matched = group_parameters(trunk, trunk.group_matcher(coarse=False), reverse=True)
        found = {f"{TRUNK}{name}": layer for name, layer in matched.items()}
        above = max(found.values()) + 1
        found |= {name: above for name, _ in tower.named_parameters() if name not in found}
    if max(found.values()) == 0:
        raise ParameterError(
            "This encoder doesn't tell its layers apart; set train.optimizer.layer_decay to 1 and train.tower.freeze to 0, or use another."
        )
    return found
