using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using OpenSora.Generation;

namespace OpenSora.Cli;

/// <summary>The command <c>opensora bench</c>.</summary>
internal static class BenchCommand
{
    private static readonly Option<int?> s_frames = new("--frames") { Description = "The number of frames. The default is that of the model." };

    private static readonly Option<(int Width, int Height)?> s_size = new("--size")
    {
        HelpName = "WIDTHxHEIGHT",
        CustomParser = GenerateCommand.ParseSize,
        Description = "The size in pixels. The default is that of the model.",
    };

    private static readonly Option<int> s_steps = new("--steps")
    {
        DefaultValueFactory = _ => 3,
        Description = "The number of denoising steps to measure.",
    };

    internal static Command Create()
    {
        var command = new Command("bench", "Measures how fast this machine generates videos.")
        {
            ModelOptions.Model,
            s_frames,
            s_size,
            s_steps,
            ModelOptions.Backend,
            ModelOptions.Precision,
            CommandLine.Json,
        };
        command.SetAction(Terminal.Action(RunAsync));
        return command;
    }

    private static async Task<int> RunAsync(ParseResult arguments, Terminal terminal, CancellationToken cancellationToken)
    {
        using var generator = ModelOptions.Build(arguments);
        var size = arguments.GetValue(s_size);
        var request = new VideoRequest
        {
            Prompt = "a test",
            Frames = arguments.GetValue(s_frames),
            Width = size?.Width,
            Height = size?.Height,
            Steps = arguments.GetValue(s_steps),
            Seed = 1,
        };
        var (clock, times) = (new StageClock(), new StageClock());
        var load = Stopwatch.StartNew();
        var video = await terminal
            .WithProgressAsync(async stages =>
            {
                stages.Report("Loading", 0, 1);
                await generator.LoadAsync(cancellationToken: cancellationToken).ConfigureAwait(false);
                load.Stop();
                stages.Report("Loading", 1, 1);
                stages.Report("Warming up", 0, 1);
                await generator.GenerateAsync(request, clock, cancellationToken).ConfigureAwait(false);
                stages.Report("Warming up", 1, 1);
                stages.Report("Measuring", 0, 1);
                var measured = await generator.GenerateAsync(request, times, cancellationToken).ConfigureAwait(false);
                stages.Report("Measuring", 1, 1);
                return measured;
            })
            .ConfigureAwait(false);
        var defaults = generator.GetService<GenerationSettings>()!;
        var (step, text, decode) = (
            times.Seconds(GenerationStage.Denoising) / video.Steps,
            times.Seconds(GenerationStage.EncodingText),
            times.Seconds(GenerationStage.Decoding)
        );
        var steps = defaults.Steps ?? video.Steps;
        var estimate = text + steps * step + decode;
        if (terminal.IsJson)
        {
            terminal.WriteJson(
                new
                {
                    video.Model,
                    video.Backend,
                    Frames = video.Frames.Count,
                    video.Frames.Width,
                    video.Frames.Height,
                    video.GuidanceScale,
                    LoadSeconds = load.Elapsed.TotalSeconds,
                    TextSeconds = text,
                    SecondsPerStep = step,
                    DecodeSeconds = decode,
                    DefaultSteps = steps,
                    SecondsPerVideo = estimate,
                }
            );
            return CommandLine.Success;
        }

        var (culture, frames) = (CultureInfo.InvariantCulture, video.Frames);
        await terminal
            .Output.WriteLineAsync(
                string.Create(
                    culture,
                    $"""
                    {video.Model} on {video.Backend}: {frames.Count} frames of {frames.Width}x{frames.Height}, guidance {video.GuidanceScale:0.##}
                    load the model    {load.Elapsed.TotalSeconds, 8:F2} s
                    encode the prompt {text, 8:F3} s
                    denoise           {step, 8:F3} s per step
                    decode            {decode, 8:F3} s
                    A video of {steps} steps takes about {estimate:F1} s.
                    """
                )
            )
            .ConfigureAwait(false);
        return CommandLine.Success;
    }

    /// <summary>Measures the time of stages, from the first report of a stage to its last.</summary>
    private sealed class StageClock : IProgress<GenerationProgress>
    {
        private readonly Dictionary<GenerationStage, (long First, long Last)> _times = [];

        public double Seconds(GenerationStage stage) =>
            _times.TryGetValue(stage, out var times) ? Stopwatch.GetElapsedTime(times.First, times.Last).TotalSeconds : 0;

        public void Report(GenerationProgress value)
        {
            var now = Stopwatch.GetTimestamp();
            _times[value.Stage] = (_times.TryGetValue(value.Stage, out var times) ? times.First : now, now);
        }
    }
}
