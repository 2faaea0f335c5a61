"""`dgbatch bench engine --model random-26b`: the real model's shape with random weights, against its floor and
against transformers on the same tensors. Runs without our command line: `python -m dgbatch.bench.random_26b`."""
