// ./build.sh bench [NAME]: each benchmark prints medians over several runs, and ratios within a run, which are more reliable on a shared machine.
using OpenSora.Benchmarks;
using OpenSora.Benchmarks.Shots;
using OpenSora.Models;

if (args is ["detect", var video, var detector])
{
    return ShotBenchmark.Detect(video, detector);
}

if (args is [ResidencyBenchmark.Child, var folder, var part, var policy, var size, var type])
{
    return ResidencyBenchmark.Measure(folder, part, policy, size, type);
}

if (args is [Plans.Child, var row, var quantity])
{
    return Plans.Measure(int.Parse(row, System.Globalization.CultureInfo.InvariantCulture), quantity);
}

if (args is ["estimate", var number])
{
    return Estimates.Measure(int.Parse(number, System.Globalization.CultureInfo.InvariantCulture));
}

if (args is [Collectives.Child, var engine])
{
    Collectives.Measure(engine);
    return 0;
}

if (args is [Sequence.Child, var checkpointing])
{
    return Sequence.MeasureChild(bool.Parse(checkpointing));
}

if (args is [Scaling.Child, var kind, var sharding])
{
    return Scaling.Measure(kind, sharding);
}

if (args is [Start.Child])
{
    return await Start.GenerateAsync();
}

var named = new (string Name, string What, Action Run)[]
{
    ("performance", "forward passes, training steps, decoding, encoding and full generation, in float32 and bfloat16", () =>
        Performance.Run(Environment.GetEnvironmentVariable("OPENSORA_BENCH_ROWS"))
    ),
    ("parts", "the profile of an STDiT block", Parts.Run),
    ("operators", "the overhead of a small operator through TorchSharp", Operators.Run),
    ("precision", "matrix multiplications and convolutions, bfloat16 compared with float32", Precision.Run),
    ("frames", "STDiT forward as the number of frames grows", Frames.Run),
    ("attention", "training steps of STDiT and of DiT with full attention as the number of frames grows", Attention.Run),
    ("captions", "captioning throughput with 8 requests in flight, compared with the time of the server", Captions.Run),
    ("clip-scores", "scores of a clip of 3 seconds, compared with decoding it", ClipScores.Run),
    ("estimates", "estimated memory and time of requests compared with measurements", Estimates.Run),
    ("start", "the time from the start of a process to the first denoising step of the bundled model", Start.Run),
    ("plan", "step time and peak memory that a plan predicts from the speeds of operations, compared with measurements", Plans.Run),
    ("operators-together", "a training step with each optimization of this library alone and with all together", OperatorsTogether.Run),
    ("memory", "peak memory of training steps compared with the estimate of a plan", Memory.Run),
};
var all = named
    .Concat([
        ("collectives", "all-reduce between two processes: MPI.NET, the C functions of MPI, and this library; and computation at the same time", () =>
            Collectives.Run()
        ),
        ("load", "loading STDiT-XL/2 from a temporary file of 3 GB", Load.Run),
        ("requests", "1,000 requests, 8 at a time, on one loaded model; 40 % are canceled at random points", Requests.Run),
        ("zero-init", "training on clips from image weights, with zero-initialized or random temporal attention, and from scratch", Claims.ZeroInit),
        ("residency", "peak memory and time with each residency policy, with the sizes of Open-Sora 1.0 (files of 13 GB)", () =>
            ResidencyBenchmark.Run(Environment.GetEnvironmentVariable("OPENSORA_BENCH_ROWS"))
        ),
        ("sequence", "a training pass over the tokens of a long video, in one process and divided between two (needs MPICH)", Sequence.Run),
        ("scaling", "a training step over 1 and 2 processes: time, bytes sent and memory compared with the plan", Scaling.Run),
        ("shots", "shot detection: speed and memory compared with ffmpeg and PySceneDetect, and accuracy on assembled videos", ShotBenchmark.Run),
        ("stages", "three training stages compared with one stage of the same compute", Claims.Stages),
    ])
    .ToArray();
var chosen = args.Length == 0 ? named[..1] : [.. all.Where(b => args.Contains(b.Name, StringComparer.Ordinal))];
if (chosen.Length == 0)
{
    Console.Error.WriteLine("Unknown benchmark. Available benchmarks:");
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
