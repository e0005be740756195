"""Speed and memory on one GPU, by one command that saves after every figure.

    python -m benchmarks.gpu --out FILE [--minutes 9] [--rehearse]

It needs PyTorch, einops and safetensors only: neither Ray nor MLflow, nor a video library.
"""
