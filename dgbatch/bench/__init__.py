"""What the README's numbers come from. Only `dgbatch bench` imports it; it may import anything."""
