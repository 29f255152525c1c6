// The processes of a test share the cores of this machine: one test after another.
[assembly: CollectionBehavior(DisableTestParallelization = true)]
