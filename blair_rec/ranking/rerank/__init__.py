"""A second stage: LightGBM's LambdaMART orders the candidates that finished variants put first."""
