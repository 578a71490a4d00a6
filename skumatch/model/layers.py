"""Numbers of a tower's layers, counted from its input, for layer-wise learning rates and freezing."""

from __future__ import annotations

from typing import Any

from torch import nn

from skumatch.errors import ParameterError
from skumatch.model.torchvision_ops import open_clip

# by way of open_clip: importing timm directly would bypass torchvision_ops
group_parameters = open_clip.timm_model.timm.models.group_parameters
TRUNK = "trunk."  # prefix of the names of a timm model's tensors in an open_clip tower
# in the form of timm's group_matcher; parameters that match no pattern belong to the top
OWN_VIT = {
    "stem": r"^conv1|class_embedding|positional_embedding|ln_pre",
    "blocks": r"^transformer\.resblocks\.(\d+)",
}


def layers(tower: nn.Module) -> dict[str, int]:
    """Return the number of each parameter's layer, by the parameter's name.

    Layer 0 is the stem. Each block is a layer. The last layer is the top: a final norm or projection, unless
    that belongs to the last block. timm's towers define their layers. open_clip's own towers don't, and timm
    would put all of their parameters into a single layer, so `OWN_VIT` defines theirs.

    Raises:
        ParameterError: The tower doesn't tell its layers apart.
    """
    trunk: Any = getattr(tower, "trunk", None)
    if trunk is None:
        layer_of = dict(group_parameters(tower, OWN_VIT, reverse=True))
    else:
        matched = group_parameters(trunk, trunk.group_matcher(coarse=False), reverse=True)
        layer_of = {f"{TRUNK}{name}": layer for name, layer in matched.items()}
        top = max(layer_of.values()) + 1
        layer_of |= {name: top for name, _ in tower.named_parameters() if name not in layer_of}
    if max(layer_of.values()) == 0:
        raise ParameterError(
            "This encoder doesn't tell its layers apart; "
            "set train.optimizer.layer_decay to 1 and train.tower.freeze to 0, or use another."
        )
    return layer_of
