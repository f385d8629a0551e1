"""The policy of a finished run for others: its files, a model card made from the record, a folder or the hub."""
