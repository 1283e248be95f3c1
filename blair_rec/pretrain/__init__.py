"""BLaIR's recipe on pairs of texts: (language context, item metadata), contrast and masked words side by side."""
