"""How the trials of a sweep are run: in this process (`inline`), or by Ray Tune on any cluster (`ray_tune`).

Both run the same `attempt.Attempt`s, dealt by the same `driver.Driver`, so they give the same records. Only `ray_tune`
imports ray.
"""
