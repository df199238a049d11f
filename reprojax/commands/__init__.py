"""The installed command's parts: `train`, `predict`, and what a run prints and shows.

Needs `pip install 'reprojax[commands]'`. A script of your own calls `train.main` with a
`train.Config`, and with its own function in place of `data.load` as `load_task`.
"""
