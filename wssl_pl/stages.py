"""The names of what can be trained; imported without PyTorch."""

from typing import Literal, get_args

Stage = Literal["pretext", "downstream"]
"""The two stages of the paper."""
Rival = Literal["shift_net", "pic", "pconv"]
"""The methods of others that are trained by the same rules."""
RIVALS: tuple[str, ...] = get_args(Rival)
STAGES: tuple[str, ...] = (*get_args(Stage), *RIVALS)
TITLES = {
    "shift_net": "Shift-Net (Yan et al. 2018)",
    "pic": "PIC (Zheng et al. 2019)",
    "pconv": "PConv (Liu et al. 2018)",
}
FILLING: tuple[str, ...] = ("downstream", *RIVALS)
"""Those whose models fill holes."""
