using OpenSora.Generation;

namespace OpenSora.Samples;

/// <summary>Shows progress as a single line that is redrawn on a terminal, or as one line per stage if the output is redirected.</summary>
internal sealed class ConsoleProgress : IProgress<GenerationProgress>, IDisposable
{
    private const int BarWidth = 24;
    private readonly bool _terminal = !Console.IsErrorRedirected;
    private GenerationStage? _stage;

    public void Report(GenerationProgress value)
    {
        if (value.Stage != _stage)
        {
            _stage = value.Stage;
            if (!_terminal)
            {
                Console.Error.WriteLine(Name(value.Stage) + (value.Stage == GenerationStage.Denoising ? $" in {value.Steps} steps" : ""));
            }
        }
        if (!_terminal)
        {
            return;
        }

        var filled = BarWidth * value.Step / value.Steps;
        var left = value.Remaining is { } remaining && value.Step < value.Steps ? $", {remaining.TotalSeconds:0} s left" : "";
        var steps = value.Stage is GenerationStage.Denoising or GenerationStage.Decoding ? $" {value.Step}/{value.Steps}{left}" : "";
        Console.Error.Write($"\r\e[K{new string('█', filled)}{new string('░', BarWidth - filled)} {Name(value.Stage)}{steps}");
    }

    public void Clear()
    {
        if (_terminal && _stage is not null)
        {
            Console.Error.Write("\r\e[K");
        }

        _stage = null;
    }

    public void Dispose() => Clear();

    private static string Name(GenerationStage stage) =>
        stage switch
        {
            GenerationStage.Waiting => "Waiting for other requests",
            GenerationStage.Loading => "Loading the model",
            GenerationStage.EncodingText => "Reading the prompt",
            GenerationStage.Denoising => "Denoising",
            GenerationStage.Decoding => "Decoding",
            _ => "Writing",
        };
}
