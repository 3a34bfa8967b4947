"""The commands of convscope_export, one a module."""
