"""What runs every experiment, whatever its question: nothing here knows a method or a network.

`runner` runs one experiment from flags to report; `flags` are those all share, and the run folder; `launch` starts or
joins several processes; `sets` loads the data; `report` and `plots` make the HTML page; `timing` measures time;
`published` lists the experiments and their published figures.
"""
