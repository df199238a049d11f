"""The installed command's parts: `train`, `predict`, and what a run prints and shows.

Needs `pip install 'reprojax[commands]'`. Scripts of one's own take what they like:

    from reprojax.commands import train

    train.main(train.Config(method="padding"), load_task=my_task)
"""
