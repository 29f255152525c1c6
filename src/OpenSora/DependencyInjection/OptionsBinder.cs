using System.ComponentModel;
using System.Globalization;
using System.Reflection;
using Microsoft.Extensions.Configuration;
using OpenSora.Generation;

namespace OpenSora.DependencyInjection;

/// <summary>Binds a configuration section to the options, and collects all problems instead of stopping at the first.</summary>
internal static class OptionsBinder
{
    private static readonly Dictionary<string, PropertyInfo> Properties = typeof(OpenSoraOptions)
        .GetProperties(BindingFlags.Instance | BindingFlags.Public)
        .ToDictionary(property => property.Name, StringComparer.OrdinalIgnoreCase);

    /// <summary>Sets the options that a section contains.</summary>
    /// <param name="section">The section; null for none.</param>
    /// <param name="options">Receives the values, and a sentence for each problem (<see cref="OpenSoraOptions.BindingProblems"/>).</param>
    /// <param name="except">The name of a subsection that belongs to another library.</param>
    public static void Bind(IConfiguration? section, OpenSoraOptions options, string? except = null)
    {
        foreach (var entry in section?.GetChildren() ?? [])
        {
            if (entry.Key.Equals(except, StringComparison.OrdinalIgnoreCase))
            {
                continue;
            }

            if (!Properties.TryGetValue(entry.Key, out var property))
            {
                options.BindingProblems.Add(
                    $"{entry.Path} is not an option. The options are {string.Join(", ", Properties.Keys.Order(StringComparer.Ordinal))}."
                );
            }
            else if (entry.Value is null)
            {
                if (entry.GetChildren().Any())
                {
                    options.BindingProblems.Add($"{entry.Path} is a section; it must be a single value.");
                }
            }
            else if (Parse(entry.Value, property.PropertyType, out var value) is { } expected)
            {
                options.BindingProblems.Add($"{entry.Path} is '{entry.Value}'; it must be {expected}.");
            }
            else
            {
                property.SetValue(options, value);
            }
        }
    }

    // Returns what is expected if the text cannot be converted. An empty text means null, as in environment variables.
    private static string? Parse(string text, Type property, out object? value)
    {
        var type = Nullable.GetUnderlyingType(property) ?? property;
        value = null;
        if (type == typeof(string))
        {
            value = text;
            return null;
        }

        if (text.Length == 0 && type != property)
        {
            return null;
        }

        if (type.IsEnum)
        {
            return Enum.TryParse(type, text, ignoreCase: true, out value) && Enum.IsDefined(type, value) ? null : "one of " + Names(type);
        }

        try
        {
            value = TypeDescriptor.GetConverter(type).ConvertFromString(null, CultureInfo.InvariantCulture, text);
            return null;
        }
        catch (Exception e) when (e is FormatException or ArgumentException or NotSupportedException)
        {
            return type == typeof(bool) ? "true or false"
                : type == typeof(double) ? "a number"
                : "a whole number";
        }
    }

    private static string Names(Type type) =>
        string.Join(", ", type == typeof(TorchSharp.torch.ScalarType) ? OpenSoraOptions.Precisions.Select(p => p.ToString()) : Enum.GetNames(type));
}
