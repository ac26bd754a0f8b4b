"""An example of a plugin for deepstruct; `deepstruct_example.plugin` has its hooks."""
