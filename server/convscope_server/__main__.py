"""python -m convscope_server: the same as `convscope serve`, for where no script is installed."""

from convscope_server.cli import serve

serve(prog_name="python -m convscope_server")
