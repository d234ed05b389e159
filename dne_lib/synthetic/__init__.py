"""The built-in data: hands, what is around them, and the files of InterHand2.6M they go into."""
