"""The DiffusionGemma text model: one set of weights, run causally (context) or bidirectionally (canvas)."""
