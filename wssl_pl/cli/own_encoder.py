"""The option `encoder=` of the commands that open a model file."""


def import_encoder(path: str | None) -> None:
    """Import an encoder that the user typed, so that a model file with its class path opens; None: there is none.

    Raises:
        WSSLError: it cannot be imported, or is no encoder.
    """
    if path is not None:
        from wssl_pl.modules import encoder  # PyTorch and Lightning, which ONNX files do not need

        encoder.import_encoder(path)
