"""Topological guidance for knowledge distillation: the library behind the notebooks.

Nothing happens at import, and nothing heavy is imported: ask for the module you need,
for example ``from tgd_lib import topology``. Data flows one way through the modules, and
each imports only those below it:

    runner · figures · experiment · evaluation · training · bank · losses · networks ·
    topology · datasets · store · config
"""

__version__ = "0.1.0"
