"""Other methods, trained by the same rules: one file each, with its networks and its LightningModule."""
