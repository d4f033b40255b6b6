"""Training: a folder of pictures and a recipe to weights.

:mod:`rt4ksr_export.pictures` and :mod:`rt4ksr_export.degradations` give pairs of small and large
patches; ``initialization`` gives the first network; ``trainer`` trains it by a ``recipe`` with the
optimizer ``soap``, and keeps its state in a ``run``, from which an interrupted training resumes.
"""
