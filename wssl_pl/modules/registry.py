"""The LightningModule of each stage."""

from wssl_pl.modules.base import WSSLModule
from wssl_pl.modules.filling import FillingModule
from wssl_pl.modules.inpaint import InpaintModule
from wssl_pl.modules.pretext import PretextModule
from wssl_pl.modules.rivals.pconv import PConvModule
from wssl_pl.modules.rivals.pic import PICModule
from wssl_pl.modules.rivals.shift_net import ShiftNetModule

FILLING_MODULES: dict[str, type[FillingModule]] = {
    module.stage: module for module in (InpaintModule, PConvModule, PICModule, ShiftNetModule)
}
MODULES: dict[str, type[WSSLModule]] = {PretextModule.stage: PretextModule, **FILLING_MODULES}
