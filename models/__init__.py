"""Networks and their mathematics: no footage, no runs, no cluster; torch, einops, numpy and safetensors are enough."""
