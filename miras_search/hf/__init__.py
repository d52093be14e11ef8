"""What an export is made of.

`configuration_miras` and `modeling_miras` are the classes for transformers: real modules here, copied into an export
with their imports pointed at the files beside them. `files` makes the other texts of the folder, `card` its README.
"""
