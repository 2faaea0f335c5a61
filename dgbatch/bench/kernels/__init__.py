"""Every operation of a denoising step with arguments to try it on: what is compiled, compared and timed."""
