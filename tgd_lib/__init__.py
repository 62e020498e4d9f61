"""Topological guidance for knowledge distillation: the library behind the notebooks.

Nothing happens at import, and nothing heavy is imported: ask for the module you need,
for example ``from tgd_lib import topology``. Data flows one way through the modules, and
each imports only those below it:

    runner, execution, twins, readme      the notebooks: run, rendered, recorded
    figures, tables                       from records to files
    cost, experiment, specs               what one trained network is, how to get it, what it costs
    evaluation, training                  how good it is, how it came about
    bank, losses, rivals                  what teachers say, and how a student listens
    networks, compute                     WRNs; the device and the precision
    topology                              diagrams and persistence images; never torch
    datasets (photographs, sources, image_folders), corruptions, transfer
    store, config                         artefacts; profiles, parameters, methods
"""

__version__ = "0.1.0"
