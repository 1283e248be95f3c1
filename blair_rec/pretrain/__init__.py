"""BLaIR's recipe on pairs of texts (language context, item metadata): a contrastive and a masked-language loss."""
