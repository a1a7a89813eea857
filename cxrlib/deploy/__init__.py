"""The wing for engineers: take a run elsewhere and examine an installation.

Who needs it: someone who wants the 8-bit engine, an export to ONNX, LiteRT, OpenVINO or Keras,
or `cxr doctor`."""
