"""Training: a folder of pictures and a recipe to weights.

The data flow, module by module:

``pictures`` (a folder, decoded) and ``degradations`` (how low resolution comes about) give pairs;
``initialization`` gives the first network; ``loop`` trains it by a ``recipe`` and keeps its
``run``, from which an interrupted training goes on.
"""
