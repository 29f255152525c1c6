using System.Globalization;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Models;

/// <summary>The numbers of trainable parameters of a network, by part.</summary>
/// <param name="Parts">The number of parameters of each part, in the order of the network. The parts of a transformer are those of
/// <see cref="IVideoTransformer.ParameterGroup"/>; those of another network are its modules.</param>
public sealed record ParameterCounts(IReadOnlyDictionary<string, long> Parts)
{
    /// <summary>Gets the number of parameters of a part; 0 if the network has no such part.</summary>
    /// <param name="part">The name of the part, such as <c>cross attention</c>.</param>
    public long this[string part] => Parts.GetValueOrDefault(part);

    /// <summary>The total number of parameters.</summary>
    public long Total => Parts.Values.Sum();

    /// <summary>Counts the trainable parameters of a network.</summary>
    /// <param name="network">A network, such as a transformer.</param>
    public static ParameterCounts Of(nn.Module network)
    {
        ArgumentNullException.ThrowIfNull(network);
        var transformer = network as IVideoTransformer;
        var parts = new OrderedDictionary<string, long>(StringComparer.Ordinal);
        foreach (var (name, parameter) in network.named_parameters())
        {
            if (parameter.requires_grad)
            {
                var part = transformer?.ParameterGroup(name) ?? name.Split('.')[0];
                parts[part] = parts.GetValueOrDefault(part) + parameter.numel();
            }
        }

        return new ParameterCounts(parts);
    }

    /// <summary>Formats one line per part, with its number of parameters and its percentage of the total.</summary>
    public override string ToString() =>
        string.Join(
            Environment.NewLine,
            Parts
                .Append(KeyValuePair.Create("total", Total))
                .Select(part =>
                    string.Create(
                        CultureInfo.InvariantCulture,
                        $"{part.Key, -20}{part.Value, 16:N0}{100.0 * part.Value / Math.Max(1, Total), 8:F1} %"
                    )
                )
        );
}
