// ./build.sh bench [NAME]: each benchmark prints medians of several runs, and ratios within the run, which is what counts on a shared machine.
using OpenSora.Benchmarks;
using OpenSora.Models;

var named = new (string Name, string What, Action Run)[]
{
    ("performance", "forward passes, training steps, decoding, encoding and a whole generation, in float32 and bfloat16", () =>
        Performance.Run(Environment.GetEnvironmentVariable("OPENSORA_BENCH_ROWS"))
    ),
    ("parts", "the profile of an STDiT block", Parts.Run),
    ("operators", "cost of one small operator through TorchSharp", Operators.Run),
    ("precision", "matrix products and convolutions, bfloat16 against float32", Precision.Run),
    ("frames", "STDiT forward as the number of frames grows", Frames.Run),
    ("attention", "training steps of STDiT and of DiT with full attention as the number of frames grows", Attention.Run),
    ("memory", "peak memory of training steps beside what a plan estimates", Memory.Run),
};
var all = named
    .Concat([
        ("load", "loading STDiT-XL/2 from a file of 3 GB, which is made and deleted", Load.Run),
        ("zero-init", "clips learned from image weights, with temporal attention that starts at zero or not, and from scratch", Claims.ZeroInit),
        ("stages", "three stages of training against one of the same compute", Claims.Stages),
    ])
    .ToArray();
var chosen = args.Length == 0 ? named[..1] : [.. all.Where(b => args.Contains(b.Name, StringComparer.Ordinal))];
if (chosen.Length == 0)
{
    Console.Error.WriteLine("No such benchmark. There are:");
    foreach (var (name, what, _) in all)
    {
        Console.Error.WriteLine($"  {name, -12} {what}");
    }

    return 1;
}

foreach (var (name, what, run) in chosen)
{
    Console.WriteLine($"{name}: {what}");
    run();
    Console.WriteLine();
}

return 0;
