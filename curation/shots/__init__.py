"""Where one shot ends and the next begins, and how shots become clips.

`detectors.find_shots(name, ...)` is the door. Every detector answers with `curation.shots.transitions.Transitions` (cuts, gradual transitions, windows it is unsure about):
`strip_detector.find_transitions(strip)` from the strip alone, `transnet.find_transitions(path, strip, stream_index)` by a network.
With a referee: `transnet.judge(path, strip, stream_index, found.unsure, budget_frames)` gives verdicts, and
`transitions.settle(found, verdicts)` puts them in. `lengths.cut_clips` makes clips of what lies between.
"""
