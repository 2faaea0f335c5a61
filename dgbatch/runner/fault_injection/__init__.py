"""Things that go wrong on purpose: `dgbatch chaos`, and the switches that tests use."""
