"""What a model is trained on: the data folder, the sampling of directions, and the fairseq task around them."""
