"""Topological guidance for knowledge distillation: the library behind the notebooks.

Nothing happens at import, and nothing heavy is imported: ask for the module you need,
for example ``from tgd_lib import topology``. Data flows one way through the modules, and
each imports only those below it:

    runner, recording, readme, execution, twins
                                          the notebooks: run, rendered, recorded
    charts, figures, tables, significance from records to files; what they allow to say
    cost, students, plan, studies         what trained networks cost, are worth, and are asked
    experiment, answers                   how to get a trained network, and what its teachers answer
    evaluation, training                  how good it is, how it came about
    bank, baselines, losses                  what teachers say, and how a student listens
    networks, compute                     WRNs; the device and the precision
    views, specs, methods                 what a network looks at, what it is, which of them the study has
    topology, diagrams                    persistence images; persistence; never torch
    datasets (photographs, sources, image_folders), corruptions, transfer
    store, config                         artefacts; profiles, parameters
"""

__version__ = "0.1.0"
