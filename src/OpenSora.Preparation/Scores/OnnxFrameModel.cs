using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace OpenSora.Preparation.Scores;

/// <summary>An ONNX model of images that is run on frames of clips.</summary>
internal sealed class OnnxFrameModel : IDisposable
{
    private readonly OnnxFrameOptions _options;
    private readonly InferenceSession _session;
    private readonly string _input;
    private readonly string _output;
    private readonly bool _oneByOne;

    internal OnnxFrameModel(OnnxFrameOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        if (options.Frames < 1 || options.Width < 1 || options.Height < 1 || options.Threads < 1)
        {
            throw new ArgumentException("Frames, Width, Height and Threads of an ONNX model must be at least 1.", nameof(options));
        }

        if (options.Mean is not { Count: 3 } || options.StandardDeviation is not { Count: 3 } || options.StandardDeviation.Any(each => !(each > 0)))
        {
            throw new ArgumentException(
                "Mean and StandardDeviation need three values (red, green, blue), and the latter positive ones.",
                nameof(options)
            );
        }

        _options = options;
        _session = Open(options.ModelPath, options.Threads);
        try
        {
            _input = Name(_session.InputMetadata.Keys, options.InputName, "input", nameof(options.InputName), mustBeOnly: true);
            _output = Name(_session.OutputMetadata.Keys, options.OutputName, "output", nameof(options.OutputName), mustBeOnly: false);
            var (batch, channels, height, width) = (1, 3, options.Height, options.Width);
            int[] expected = options.ChannelsLast ? [batch, height, width, channels] : [batch, channels, height, width];
            var input = _session.InputMetadata[_input];
            var fits =
                input.ElementType == typeof(float)
                && input.Dimensions.Length == 4
                && input.Dimensions.Zip(expected).All(each => each.First < 0 || each.First == each.Second);
            if (!fits)
            {
                throw new ArgumentException(
                    $"The input '{_input}' of '{options.ModelPath}' is {input.ElementType.Name} [{string.Join(", ", input.Dimensions)}], but frames "
                        + $"are prepared as Single [{string.Join(", ", expected)}] with any batch. Set Width, Height and ChannelsLast, "
                        + "or export the model with such an input.",
                    nameof(options)
                );
            }

            _oneByOne = input.Dimensions[0] == 1;
        }
        catch
        {
            _session.Dispose();
            throw;
        }
    }

    /// <summary>Runs the model on frames that are spread over a clip, and returns the values of the output for each.</summary>
    internal IReadOnlyList<float[]> Run(ClipFrames frames, CancellationToken cancellationToken)
    {
        var indices = frames.Sample(_options.Frames);
        var pixels = new float[indices.Count * 3 * _options.Width * _options.Height];
        for (var i = 0; i < indices.Count; i++)
        {
            FrameInput.Prepare(frames, indices[i], _options, pixels.AsSpan(i * pixels.Length / indices.Count, pixels.Length / indices.Count));
        }

        var batches = _oneByOne ? indices.Count : 1;
        List<float[]> results = [];
        for (var i = 0; i < batches; i++)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var (images, length) = (indices.Count / batches, pixels.Length / batches);
            int[] shape = _options.ChannelsLast ? [images, _options.Height, _options.Width, 3] : [images, 3, _options.Height, _options.Width];
            var values = Run(
                _session,
                [NamedOnnxValue.CreateFromTensor(_input, new DenseTensor<float>(pixels.AsMemory(i * length, length), shape))],
                _output
            );
            if (values.Length == 0 || values.Length % images != 0)
            {
                throw new InvalidOperationException(
                    $"The output '{_output}' of '{_options.ModelPath}' has {values.Length} values for {images} images. "
                        + "Set OutputName to one with values for each."
                );
            }

            results.AddRange(values.Chunk(values.Length / images));
        }

        return results;
    }

    public void Dispose() => _session.Dispose();

    /// <summary>Opens a model.</summary>
    internal static InferenceSession Open(string path, int threads)
    {
        if (!File.Exists(path))
        {
            throw new FileNotFoundException($"The ONNX model '{path}' does not exist.", path);
        }

        using var options = new SessionOptions
        {
            IntraOpNumThreads = threads,
            InterOpNumThreads = 1,
            LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR,
        };
        try
        {
            return new(path, options);
        }
        catch (OnnxRuntimeException e)
        {
            throw new InvalidDataException($"'{path}' is not an ONNX model that can be run: {e.Message}", e);
        }
    }

    /// <summary>Runs a model, and returns an output of floating-point numbers.</summary>
    internal static float[] Run(InferenceSession session, IReadOnlyCollection<NamedOnnxValue> inputs, string output)
    {
        using var outputs = session.Run(inputs, [output]);
        return outputs[0].Value switch
        {
            Tensor<float> values => [.. values],
            Tensor<double> values => [.. values.Select(each => (float)each)],
            Tensor<Float16> values => [.. values.Select(each => (float)each)],
            _ => throw new InvalidOperationException($"The output '{output}' of an ONNX model does not consist of floating-point numbers."),
        };
    }

    /// <summary>Returns the name of an input or output.</summary>
    internal static string Name(IEnumerable<string> names, string? name, string kind, string option, bool mustBeOnly)
    {
        var known = names.ToArray();
        return name is null && (known.Length == 1 || (known.Length > 1 && !mustBeOnly)) ? known[0]
            : name is not null && known.Contains(name, StringComparer.Ordinal) ? name
            : throw new ArgumentException(
                $"The model has the {kind}s {string.Join(", ", known)}{(name is null ? "" : $", but not '{name}'")}. Set {option} to one of them.",
                nameof(name)
            );
    }
}
