"""The wing for engineers: take a run elsewhere and examine an installation.

Who needs it: someone who scores many films (`engine`, in 8 bits), takes a model to other software
(`export`: ONNX, LiteRT, OpenVINO, Keras), or doubts an installation (`doctor`)."""
