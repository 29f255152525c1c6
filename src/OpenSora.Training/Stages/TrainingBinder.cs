using System.ComponentModel;
using System.Globalization;
using System.Reflection;
using System.Text.Json.Serialization;
using Microsoft.Extensions.Configuration;

namespace OpenSora.Training.Stages;

/// <summary>Binds a configuration section to the training options, and collects all problems instead of stopping at the first.</summary>
internal static class TrainingBinder
{
    /// <summary>Sets the options that a section contains.</summary>
    /// <param name="section">The section.</param>
    /// <param name="options">Receives the valid values, and a sentence for each problem (<see cref="TrainingOptions.BindingProblems"/>).</param>
    public static void Bind(IConfiguration section, TrainingOptions options)
    {
        HashSet<string> wrong = new(StringComparer.OrdinalIgnoreCase);
        Check(section, typeof(TrainingOptions), "", options.BindingProblems, wrong);
        new ConfigurationBuilder()
            .AddInMemoryCollection(
                section
                    .AsEnumerable(makePathsRelative: true)
                    .Where(entry => !wrong.Any(path => entry.Key.Equals(path, StringComparison.OrdinalIgnoreCase) || IsUnder(path, entry.Key)))
            )
            .Build()
            .Bind(options);
    }

    private static bool IsUnder(string path, string key) => key.StartsWith(path + ConfigurationPath.KeyDelimiter, StringComparison.OrdinalIgnoreCase);

    // Compares the keys and values of a section with the properties of a type.
    private static void Check(IConfiguration section, Type type, string path, List<string> problems, HashSet<string> wrong)
    {
        var properties = type.GetProperties(BindingFlags.Instance | BindingFlags.Public)
            .Where(property => !property.IsDefined(typeof(JsonIgnoreAttribute)))
            .ToDictionary(property => property.Name, property => property.PropertyType, StringComparer.OrdinalIgnoreCase);
        foreach (var entry in section.GetChildren())
        {
            var own = path.Length == 0 ? entry.Key : ConfigurationPath.Combine(path, entry.Key);
            if (!properties.TryGetValue(entry.Key, out var property))
            {
                wrong.Add(own);
                problems.Add($"{entry.Path} is not an option. The options are {string.Join(", ", properties.Keys.Order(StringComparer.Ordinal))}.");
            }
            else if (property.IsGenericType && property.GetGenericTypeDefinition() == typeof(IList<>))
            {
                foreach (var item in entry.GetChildren())
                {
                    CheckValue(item, property.GetGenericArguments()[0], ConfigurationPath.Combine(own, item.Key), problems, wrong);
                }
            }
            else
            {
                CheckValue(entry, property, own, problems, wrong);
            }
        }
    }

    private static void CheckValue(IConfigurationSection entry, Type declared, string path, List<string> problems, HashSet<string> wrong)
    {
        var type = Nullable.GetUnderlyingType(declared) ?? declared;
        if (type.IsClass && type != typeof(string))
        {
            Check(entry, type, path, problems, wrong);
        }
        else if (entry.Value is null ? entry.GetChildren().Any() : Expected(entry.Value, type, isNullable: type != declared) is not null)
        {
            wrong.Add(path);
            problems.Add(
                entry.Value is null
                    ? $"{entry.Path} is a section; it must be a single value."
                    : $"{entry.Path} is '{entry.Value}'; it must be {Expected(entry.Value, type, isNullable: type != declared)}."
            );
        }
    }

    // Returns what is expected if the text cannot be converted. An empty text means null, as in environment variables.
    private static string? Expected(string text, Type type, bool isNullable)
    {
        if (type == typeof(string) || (text.Length == 0 && isNullable))
        {
            return null;
        }

        if (type.IsEnum)
        {
            return Enum.TryParse(type, text, ignoreCase: true, out var value) && Enum.IsDefined(type, value)
                ? null
                : $"one of {string.Join(", ", Enum.GetNames(type))}";
        }

        try
        {
            TypeDescriptor.GetConverter(type).ConvertFromString(null, CultureInfo.InvariantCulture, text);
            return null;
        }
        catch (Exception e) when (e is FormatException or ArgumentException or NotSupportedException)
        {
            return type == typeof(bool) ? "true or false"
                : type == typeof(double) ? "a number"
                : type == typeof(TimeSpan) ? "a time such as 01:30:00"
                : "a whole number";
        }
    }
}
