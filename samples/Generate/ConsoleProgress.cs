using OpenSora.Generation;
using Spectre.Console;

namespace OpenSora.Samples;

/// <summary>Shows the progress of a generation on the error output: a bar on a terminal, or one line for each stage if the output is
/// redirected.</summary>
internal static class ConsoleProgress
{
    /// <summary>Runs work and shows its progress.</summary>
    public static Task<T> ShowAsync<T>(Func<IProgress<GenerationProgress>, Task<T>> work)
    {
        if (Console.IsErrorRedirected)
        {
            return work(new Lines());
        }

        var console = AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(Console.Error) });
        return console
            .Progress()
            .AutoClear(true)
            .HideCompleted(true)
            .Columns(new ProgressBarColumn(), new TaskDescriptionColumn(), new RemainingTimeColumn())
            .StartAsync(context => work(new Bars(context)));
    }

    private static string Name(GenerationStage stage) =>
        stage switch
        {
            GenerationStage.Waiting => "Waiting for other requests",
            GenerationStage.Loading => "Loading the model",
            GenerationStage.EncodingText => "Reading the prompt",
            GenerationStage.EncodingReferences => "Reading the references",
            GenerationStage.Denoising => "Denoising",
            GenerationStage.Decoding => "Decoding",
            _ => "Writing",
        };

    private sealed class Bars(ProgressContext context) : IProgress<GenerationProgress>
    {
        private GenerationStage? _stage;
        private ProgressTask? _bar;

        public void Report(GenerationProgress value)
        {
            if (_bar is null || value.Stage != _stage)
            {
                _bar?.StopTask();
                (_stage, _bar) = (value.Stage, context.AddTask(Name(value.Stage), maxValue: value.Steps));
            }

            _bar.Value = value.Step;
        }
    }

    private sealed class Lines : IProgress<GenerationProgress>
    {
        private GenerationStage? _stage;

        public void Report(GenerationProgress value)
        {
            if (value.Stage != _stage)
            {
                _stage = value.Stage;
                Console.Error.WriteLine(Name(value.Stage) + (value.Stage == GenerationStage.Denoising ? $" in {value.Steps} steps" : ""));
            }
        }
    }
}
