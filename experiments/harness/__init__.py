"""How every experiment runs: flags, processes, run folders, reports, pictures, clocks. It knows no method."""
