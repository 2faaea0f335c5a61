"""What each process of a run says, line by line, and how it is read again."""
