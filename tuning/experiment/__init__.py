"""The folder of a search: its layout, records and locks, and its copy in an object store. Does not import Ray."""
