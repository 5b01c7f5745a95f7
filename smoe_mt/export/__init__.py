"""``smoe-mt export``: a trained model as a folder for others, in the form of smoe_mt, of transformers or of CTranslate2."""
