"""Real, importable code with slots; the linker copies what a design uses into its module.

Rules for these files: imports of torch and math only (and of one another); every flag and slot comes from `slots`; a test on flags names flags
only, so that it can be decided; no closures over module state; names are unique over all files.
"""
